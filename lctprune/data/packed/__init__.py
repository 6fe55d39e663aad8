"""Data packed into few files: Parquet, Arrow, tar, the Hugging Face hub."""
