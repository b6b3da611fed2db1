"""What the README's figures of speed and memory are measured with: ratios against a named alternative in one run."""
