"""The networks of SDKD: two teachers in one shell, three students."""
