"""`ssd-probe branch`: force tokens of passing programs, let the model go on, run the tests."""
