"""The bundled domain and the checkpoint that was trained on it."""
