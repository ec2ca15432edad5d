"""A request arrives: who is it from (`peer`), may it enter (`admit`), what may it say about itself (`forwarded`)."""
