"""What a cluster for so many events a day needs: measured costs, a plan of processes, and a day of it, simulated."""
