"""What the gateway says of itself: metrics, figures, prices, logs. It watches, never decides."""
