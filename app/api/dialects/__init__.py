"""Endpoints that speak the protocols of other servers: OpenAI, Open Inference Protocol, Hugging Face, SageMaker.

Each has its own request and error format, and gives the same answers as `app/api/images`.
"""
