"""What is right and wrong with each kind of target: judgement, from what clients read to what a job checks."""
