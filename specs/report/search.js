// Show of the bill of materials only the rows that have the searched text. Without this the page has all rows.
const field = document.getElementById("search");
field.closest("[hidden]").hidden = false;
field.addEventListener("input", () => {
  const wanted = field.value.toLowerCase();
  for (const row of document.querySelectorAll("#parts tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
});
