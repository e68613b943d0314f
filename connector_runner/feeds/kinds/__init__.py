"""The plug-ins of feeds, one module each, named as the type in the project file."""
