"""The xDS server: who subscribed to what, when to push, and the stream itself."""
