"""Lessons in prompts: retrieval, insertion, answering. Read `retriever` first."""
