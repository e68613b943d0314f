"""What a destination is, and what `penstock check` tries on each."""
