"""The frozen pre-trained model: the only place that knows Hugging Face's model classes."""
