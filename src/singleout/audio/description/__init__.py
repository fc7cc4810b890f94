"""What a file says about its recording besides the samples, read and written for each format."""
