"""What tests share: real servers, sample data, and the running of jobs, nodes and stores."""
