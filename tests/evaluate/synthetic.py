"""Text for the small pair of these tests."""

TEXT = "The old owl said: go home! Rain fell on the old house, and the rain went on. " * 4
