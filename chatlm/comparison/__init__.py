"""A tuned model beside its base: both answer the same held-out questions and are measured."""
