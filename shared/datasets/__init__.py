"""Recordings of games: reading, making and inspecting them."""
