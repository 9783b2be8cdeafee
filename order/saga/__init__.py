"""The order saga: joins the results of payment and inventory, and decides each order."""
