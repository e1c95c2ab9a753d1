"""Groups of rollouts, up to where a gradient or a lesson comes of them: numpy, one file per axis."""
