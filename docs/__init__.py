"""The documentation: pages in Markdown, what writes one of them from the code, and what makes a site of them."""
