"""The paper's tables: what fills them, and theirs beside ours."""
