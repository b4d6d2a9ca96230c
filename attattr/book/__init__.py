"""What only this book needs: measured results as tables, checks of the exercises, how results and models were made."""
