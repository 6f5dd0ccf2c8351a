"""The recipe of the bundled model: corpus, tokenizer, pretraining, chat tuning, export."""
