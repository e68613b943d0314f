"""What is a fault, and what is told of it and when. Pure: facts, rules, what was told, and a time give what to send."""
