"""Many runs: axes, grids, pools of processes, and the tables they fill."""
