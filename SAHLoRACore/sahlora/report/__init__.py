"""What is told of one result: measurements, picture, page."""
