"""The views in Jupyter: pictures of the package's objects, and widgets."""
