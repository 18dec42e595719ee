"""`ssd-probe report`: what a run, a comparison or a probe has to say, gathered for one page."""
