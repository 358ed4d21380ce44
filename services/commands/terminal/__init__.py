"""A run as text: what `watch`, `status` and `train` show of the page's document in a terminal."""
