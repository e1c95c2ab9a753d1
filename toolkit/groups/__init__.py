"""Groups of rollouts, up to the advantages that an update or a lesson uses: numpy, one file per axis of a method."""
