"""Operations on a running project, without a screen."""
