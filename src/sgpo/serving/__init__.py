"""Servers with the OpenAI API: using several of them, caching their answers, and starting one."""
