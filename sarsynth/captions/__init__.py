"""What is said of an image: templates, keywords from annotations and pixels, a language model's words for them."""
