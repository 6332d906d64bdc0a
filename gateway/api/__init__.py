"""The only HTTP: what comes in, what goes out, who may ask. Every answer is given by routing."""
