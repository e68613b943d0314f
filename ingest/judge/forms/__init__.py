"""Events in other forms than Segment's, rewritten one by one; pure."""
