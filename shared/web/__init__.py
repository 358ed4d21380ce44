"""What our web servers share: who may talk to them, where they listen."""
