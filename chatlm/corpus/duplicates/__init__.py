"""Exact and near duplicates, clusters of questions, overlap with evaluation sets."""
