"""Programs of others: run within limits, heard line by line, ended with all that they started; and the folders they are installed in."""
