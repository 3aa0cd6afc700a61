"""What is raised where the caller can put something right."""


class UserError(ValueError):
    """Something that the caller can put right; its text is one line that says what was wrong and what is allowed."""
