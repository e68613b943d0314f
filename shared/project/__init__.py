"""The project file as Structs, the checks of it, and the applied project that services follow."""
