"""What a student is trained to make small. One protocol; each loss declares what it needs."""
