"""What is known before anything is sent: records, types, declared statements, filters, pages. No I/O."""
