"""The relay `smtps`, against a fake backend that does what each test asks, and against Postfix."""
