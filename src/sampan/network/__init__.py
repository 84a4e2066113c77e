"""Addresses, bridges, NAT, published ports and DNS. It knows network namespaces, not containers."""
