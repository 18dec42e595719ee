"""What training at other settings could do, from the base alone: the ideal-fit bound."""
