"""Getting data: packages that carry it, folders of published sets, and what is cut from them."""
