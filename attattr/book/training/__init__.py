"""How the embedded models were made: fine-tuning, their accuracy, and the folder that a training run leaves behind."""
