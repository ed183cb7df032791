"""The HTTP door: OpenAI's chat API, the page, and the process that serves them."""
