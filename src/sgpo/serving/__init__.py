"""Servers that speak the OpenAI API: asking several of them, and starting one."""
