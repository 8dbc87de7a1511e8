"""The requirements of each shipped job, from its params: what its decorator names and `doctor` exercises."""
