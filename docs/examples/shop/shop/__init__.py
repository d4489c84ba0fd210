"""A small shop: it takes in orders and writes invoices."""
