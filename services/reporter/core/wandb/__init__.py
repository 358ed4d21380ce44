"""What W&B's history says about a stage: columns, figures and the words for them."""
