/** The field of a request for a temperature; none where it is 1, as for the model's own distribution. */
export const temperatureOf = ({ value }) => (value === "" || Number(value) === 1 ? {} : { temperature: Number(value) });
